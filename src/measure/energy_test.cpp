// The meter on powercap trees made here, as kernels lay them out.
#include "measure/energy.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace skiff {
namespace {

class PowercapTree : public ::testing::Test {
protected:
    void SetUp() override {
        folder_ = ::testing::TempDir() + "skiff_powercap_" + ::testing::UnitTest::GetInstance()->current_test_info()->name();
        std::filesystem::remove_all(folder_);
        std::filesystem::create_directories(folder_);
    }
    void TearDown() override { std::filesystem::remove_all(folder_); }
    void write(const std::string& zone, const std::string& file, const std::string& text) {
        std::filesystem::create_directories(folder_ + "/" + zone);
        std::ofstream(folder_ + "/" + zone + "/" + file) << text << "\n";
    }
    void add_zone(const std::string& zone, const std::string& name, std::uint64_t energy, std::uint64_t range) {
        write(zone, "name", name);
        write(zone, "max_energy_range_uj", std::to_string(range));
        write(zone, "energy_uj", std::to_string(energy));
    }
    EnergyMeter open() { return EnergyMeter::open({.powercap_folder = folder_, .nvml_library = ""}); }
    std::string folder_;
};

TEST_F(PowercapTree, CountsPackagesAndNothingTwice) {
    add_zone("intel-rapl:0", "package-0", 1000000, 262143328850);
    add_zone("intel-rapl:0:0", "core", 5, 262143328850);     // a part of the package
    add_zone("intel-rapl:1", "package-1", 0, 262143328850);
    add_zone("intel-rapl:2", "psys", 7, 262143328850);       // the whole board
    add_zone("intel-rapl-mmio:0", "package-0", 1, 262143328850);  // the same package, read another way
    write("intel-rapl", "enabled", "1");
    EnergyMeter meter = open();
    ASSERT_EQ(meter.names(), (std::vector<std::string>{"package-0", "package-1"})) << meter.unreadable();
    ASSERT_TRUE(meter.begin().ok());
    write("intel-rapl:0", "energy_uj", "3500000");
    write("intel-rapl:0:0", "energy_uj", "900000000");
    write("intel-rapl:1", "energy_uj", "250000");
    EXPECT_EQ(*meter.joules(), (std::vector<double>{2.5, 0.25}));
    ASSERT_TRUE(meter.begin().ok());
    EXPECT_EQ(*meter.joules(), (std::vector<double>{0, 0}));
}

TEST_F(PowercapTree, FollowsACounterThatGoesRound) {
    add_zone("intel-rapl:0", "package-0", 65532000000, 65532610987);
    EnergyMeter meter = open();
    ASSERT_TRUE(meter.begin().ok());
    write("intel-rapl:0", "energy_uj", "389012");  // 610987 to the end, one to zero, 389012
    EXPECT_EQ((*meter.joules())[0], 1.0);
    write("intel-rapl:0", "energy_uj", "65532610987");
    write("intel-rapl:0", "energy_uj", "65532389012");
    EXPECT_EQ((*meter.joules())[0], 65533.0);
    write("intel-rapl:0", "energy_uj", "389012");  // round again
    EXPECT_NEAR((*meter.joules())[0], 65533.610988, 1e-6);
    EXPECT_EQ(energy_between(10, 10, 100), 0u);
    EXPECT_EQ(energy_between(100, 0, 100), 1u);
}

TEST_F(PowercapTree, SaysWhyNothingIsReadable) {
    EXPECT_NE(open().unreadable().find("no RAPL zone (a virtual machine"), std::string::npos) << open().unreadable();
    EXPECT_FALSE(EnergyMeter::open({.powercap_folder = folder_ + "/absent", .nvml_library = ""}).readable());
    add_zone("intel-rapl:0", "psys", 1, 100);
    EXPECT_NE(open().unreadable().find("of a processor package"), std::string::npos);
    add_zone("intel-rapl:0", "package-0", 1, 100);
    write("intel-rapl:0", "energy_uj", "many");
    EXPECT_NE(open().unreadable().find("expected a number, found \"many\""), std::string::npos) << open().unreadable();
    EXPECT_FALSE(open().readable());
    const EnergyMeter without = EnergyMeter::open({.powercap_folder = folder_, .nvml_library = "libskiff-no-such-nvml.so"});
    EXPECT_NE(without.unreadable().find("libskiff-no-such-nvml.so: not here"), std::string::npos) << without.unreadable();
}

// energy_uj is for root alone since 2020 (CVE-2020-8694).
TEST_F(PowercapTree, SaysThatOnlyRootMayRead) {
    add_zone("intel-rapl:0", "package-0", 1, 100);
    ::chmod((folder_ + "/intel-rapl:0/energy_uj").c_str(), 0);
    const bool root = ::geteuid() == 0;
    ASSERT_EQ(::seteuid(root ? 65534 : ::geteuid()), 0);
    const EnergyMeter meter = open();
    ASSERT_EQ(::seteuid(root ? 0 : ::geteuid()), 0);
    EXPECT_FALSE(meter.readable());
    EXPECT_NE(meter.unreadable().find("energy_uj: only root may read it here"), std::string::npos) << meter.unreadable();
}

TEST_F(PowercapTree, DevicesStandBesideThePackages) {
    add_zone("intel-rapl:0", "package-0", 1, 100);
    EnergyMeter meter = EnergyMeter::open({.powercap_folder = folder_, .nvml_library = SKIFF_FAKE_NVML});
    ASSERT_EQ(meter.names(), (std::vector<std::string>{"package-0", "Counting GPU (0)"}));  // the old one counts nothing
    ASSERT_TRUE(meter.begin().ok());
    EXPECT_EQ(*meter.joules(), (std::vector<double>{0, 1.5}));
    EXPECT_EQ(*meter.joules(), (std::vector<double>{0, 3}));
}

TEST_F(PowercapTree, ACounterThatVanishesIsAnError) {
    add_zone("intel-rapl:0", "package-0", 1, 100);
    EnergyMeter meter = open();
    EXPECT_FALSE(meter.joules().ok());  // before begin()
    ASSERT_TRUE(meter.begin().ok());
    std::filesystem::remove(folder_ + "/intel-rapl:0/energy_uj");
    EXPECT_FALSE(meter.joules().ok());
}

TEST_F(PowercapTree, IdlePowerIsEnergyOverTime) {
    add_zone("intel-rapl:0", "package-0", 1, 100);
    EnergyMeter meter = open();
    const auto watts = meter.idle_watts(0.02);
    ASSERT_TRUE(watts.ok());
    EXPECT_EQ((*watts)[0], 0);  // the file does not change
}

}  // namespace
}  // namespace skiff

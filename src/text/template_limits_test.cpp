// Hostile templates end in an Error, quickly, and never in a crash: each limit, and the attacks known from other engines.
#include <gtest/gtest.h>

#include <chrono>

#include "text/template_engine.h"

namespace skiff {
namespace {

std::string repeated(std::string_view part, std::size_t count) {
    std::string out;
    for (std::size_t i = 0; i < count; ++i) out += part;
    return out;
}

Result<std::string> render(const std::string& source, const TemplateOptions& options = {}, const Json& variables = Json::object()) {
    auto parsed = Template::parse(source, options);
    if (!parsed.ok()) return parsed.take_error();
    return parsed->render(variables, options);
}

void expect_error(const std::string& source, std::string_view part, const TemplateOptions& options = {}) {
    auto start = std::chrono::steady_clock::now();
    auto rendered = render(source, options);
    double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    std::string shown = source.substr(0, 120);
    ASSERT_FALSE(rendered.ok()) << shown << " renders " << rendered->size() << " bytes";
    EXPECT_NE(rendered.error().to_string().find(part), std::string::npos) << shown << ": " << rendered.error().to_string();
    EXPECT_LT(seconds, 10.0) << shown;
}

TEST(TemplateLimits, SourceBytes) {
    TemplateOptions options;
    EXPECT_TRUE(render(std::string(options.max_source_bytes, 'a')).ok());
    expect_error(std::string(options.max_source_bytes + 1, 'a'), "over the limit");
}

TEST(TemplateLimits, Fuel) {
    expect_error("{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}", "steps");
    expect_error("{% for i in range(3000) %}{% for j in range(3000) %}{{ '' }}{% endfor %}{% endfor %}", "steps");
    TemplateOptions options;
    options.fuel = 100;
    EXPECT_TRUE(render("{% for i in range(10) %}{% endfor %}", options).ok());
    expect_error("{% for i in range(90) %}{{ i }}{% endfor %}", "steps", options);
}

TEST(TemplateLimits, OutputBytes) {
    TemplateOptions options;
    options.max_output_bytes = 1000;
    EXPECT_EQ(render(std::string(1000, 'a'), options).value().size(), 1000u);
    expect_error(std::string(1001, 'a'), "output", options);
    expect_error("{% for i in range(1001) %}a{% endfor %}", "output", options);
    expect_error("{{ 'a' * 5000000 }}", "limit");
    expect_error("{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}", "limit");
    expect_error("{{ 'a'.center(99999999) }}", "limit");
    expect_error("{{ 'a'|indent(99999999) }}", "limit");
    expect_error("{{ 'aaaaaaaaaa'.replace('a', 'b' * 4000000) }}", "limit");
}

TEST(TemplateLimits, DepthOfSource) {
    for (std::size_t depth : {100u, 120u}) EXPECT_TRUE(render("{{ " + std::string(depth, '(') + "1" + std::string(depth, ')') + " }}").ok());
    for (std::size_t depth : {200u, 100000u}) {
        expect_error("{{ " + std::string(depth, '(') + "1" + std::string(depth, ')') + " }}", "deeper");
        expect_error("{{ " + std::string(depth, '[') + std::string(depth, ']') + " }}", "deeper");
        expect_error("{{ " + std::string(depth, '-') + "1 }}", depth > 1 ? "deeper" : "");
        expect_error("{{ " + repeated("not ", depth / 4 + 150) + "1 }}", "deeper");
        expect_error("{{ x" + repeated(".a", depth) + " }}", "deeper");
        expect_error("{{ x" + repeated("|e", depth) + " }}", "deeper");
        expect_error("{{ " + repeated("1 if 1 else ", depth / 8 + 150) + "1 }}", "deeper");
        expect_error("{{ x" + repeated("()", depth) + " }}", "deeper");
    }
    expect_error(repeated("{% if 1 %}", 200) + repeated("{% endif %}", 200), "deeper");
    expect_error(repeated("{% for i in x %}", 10000), "deeper");
    expect_error("{% for " + std::string(50000, '(') + "i" + std::string(50000, ')') + " in x %}{% endfor %}", "deeper");
}

TEST(TemplateLimits, LongChainsAreNotDeep) {
    EXPECT_EQ(render("{{ 0" + repeated(" + 1", 20000) + " }}").value(), "20000");
    EXPECT_EQ(render("{{ true" + repeated(" and true", 20000) + " }}").value(), "True");
    EXPECT_EQ(render("{{ ''" + repeated(" ~ 1", 20000) + " }}").value().size(), 20000u);
    EXPECT_EQ(render("{% if 0 %}" + repeated("{% elif 0 %}", 15000) + "{% else %}x{% endif %}").value(), "x");
}

TEST(TemplateLimits, DepthOfCalls) {
    expect_error("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "macros call each other");
    expect_error("{% macro f() %}{{ g() }}{% endmacro %}{% macro g() %}{{ f() }}{% endmacro %}{{ f() }}", "deeper");
    std::string nested = std::string(90, '[') + "f()" + std::string(90, ']');
    expect_error("{% macro f() %}{{ " + nested + " }}{% endmacro %}{{ f() }}", "deeper");
    EXPECT_EQ(render("{% macro f(n) %}{{ f(n - 1) if n > 0 else 'end' }}{% endmacro %}{{ f(100) }}").value(), "end");
}

TEST(TemplateLimits, DepthAndWeightOfValues) {
    expect_error("{% set ns = namespace(x=[]) %}{% for i in range(1000) %}{% set ns.x = [ns.x] %}{% endfor %}", "nested deeper");
    expect_error("{% set ns = namespace(x={}) %}{% for i in range(1000) %}{% set ns.x = {'a': ns.x} %}{% endfor %}", "nested deeper");
    expect_error("{% set ns = namespace(x=[1]) %}{% for i in range(100) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}", "values");
    expect_error("{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}", "s");
}

TEST(TemplateLimits, CirclesAndChainsOfNamespacesAreFreed) {
    expect_error("{% set ns = namespace() %}{% set ns.me = ns %}{{ ns }}", "nested deeper");
    EXPECT_EQ(render("{% set ns = namespace() %}{% set ns.me = ns %}{{ ns.me.me is defined }}").value(), "True");
    EXPECT_TRUE(render("{% set ns = namespace(x=0) %}{% for i in range(90000) %}{% set ns.x = namespace(x=ns.x) %}{% endfor %}").ok());
    std::string capture = "{% macro f(g) %}{% macro h() %}{{ g }}{% endmacro %}{% set ns.m = h %}{% endmacro %}";
    EXPECT_TRUE(render("{% set ns = namespace(m=0) %}" + capture + "{% for i in range(50000) %}{{ f(ns.m) }}{% endfor %}").ok());
    expect_error("{% set ns = namespace(l=0) %}{% for j in range(9000) %}{% for i in [ns.l] %}{% set ns.l = loop %}{% endfor %}{% endfor %}", "nested deeper");
    EXPECT_TRUE(render("{% set ns = namespace() %}{% for i in [1] %}{% set ns.l = loop %}{{ loop.changed(loop) }}{% endfor %}{{ ns.l.index }}").ok());
}

TEST(TemplateLimits, Range) {
    EXPECT_TRUE(render("{{ range(100000)|length }}").ok());
    expect_error("{{ range(100001) }}", "range");
    expect_error("{{ range(1000000000) }}", "range");
    expect_error("{{ range(-9223372036854775807, 9223372036854775807) }}", "range");
}

TEST(TemplateLimits, IntegersKeepTo64Bits) {
    for (const char* source : {"{{ 9223372036854775807 + 1 }}", "{{ -9223372036854775807 - 2 }}", "{{ 4611686018427387904 * 2 }}", "{{ 2 ** 64 }}", "{{ 9223372036854775808 }}",
                               "{{ (-9223372036854775807 - 1) // -1 }}", "{{ -(-9223372036854775807 - 1) }}", "{{ (-9223372036854775807 - 1)|abs }}", "{{ '99999999999999999999'|int }}",
                               "{{ 1e300|int }}", "{{ 9223372036854775807|string|int + 1 }}"})
        expect_error(source, "");
    EXPECT_EQ(render("{{ (-9223372036854775807 - 1) % -1 }}").value(), "0");
    EXPECT_EQ(render("{{ 'abc'[-9223372036854775807:9223372036854775807:9223372036854775807] }}").value(), "a");
    EXPECT_EQ(render("{{ 'abc'[::-9223372036854775807] }}").value(), "c");
}

TEST(TemplateLimits, BytesThatAreNotUtf8AreKept) {
    EXPECT_EQ(render("\xFF{{ '\xC3' }}\xE2\x82").value(), "\xFF\xC3\xE2\x82");
    EXPECT_EQ(render("{{ 'a\xFF\x62'|length }}{{ 'a\xFF\x62'[::-1] }}").value(), "3b\xFF\x61");
}

// Twice the input takes about twice the time, for what templates do with long messages.
TEST(TemplateLimits, TimeIsLinear) {
    auto seconds = [](std::size_t n) {
        Json variables = Json::object({{"text", repeated("a é\n", n)}});
        auto start = std::chrono::steady_clock::now();
        auto rendered = render("{{ text|trim|upper|length }}{{ text.split('\\n')|length }}{{ text|replace('a', 'b')|length }}{{ text.split()|join('')|length }}"
                               "{{ text[1:]|length }}{{ text|tojson|length }}{{ text|indent|length }}{{ 'z' in text }}{{ text }}", {}, variables);
        EXPECT_TRUE(rendered.ok()) << rendered.error().to_string();
        return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    };
    seconds(1000);
    double small = seconds(20'000), large = seconds(160'000);
    EXPECT_LT(large, 8 * 6 * small + 0.5) << small << " s, then " << large << " s";
}

}  // namespace
}  // namespace skiff

# Toolchain file: builds skiff for arm64 Linux on another machine, as one static program. tools/cross_arm64.sh uses it; it needs g++-aarch64-linux-gnu and
# the folder of libraries that tools/arm64_sysroot.sh makes. With qemu-aarch64 (qemu-user) CTest runs the tests of such a build.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)

set(SKIFF_SYSROOT "$ENV{HOME}/.cache/skiff/arm64" CACHE PATH "What tools/arm64_sysroot.sh made")
set(CMAKE_TRY_COMPILE_PLATFORM_VARIABLES SKIFF_SYSROOT)
set(CMAKE_FIND_ROOT_PATH ${SKIFF_SYSROOT})
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)
set(CMAKE_CXX_FLAGS_INIT "-isystem ${SKIFF_SYSROOT}/usr/include/aarch64-linux-gnu")
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)
set(ENV{PKG_CONFIG_LIBDIR} ${SKIFF_SYSROOT}/usr/lib/aarch64-linux-gnu/pkgconfig)
set(ENV{PKG_CONFIG_SYSROOT_DIR} ${SKIFF_SYSROOT})

set(SKIFF_STATIC ON CACHE BOOL "")
find_program(SKIFF_ARM64_EMULATOR NAMES qemu-aarch64 qemu-aarch64-static)
if(SKIFF_ARM64_EMULATOR)
    set(CMAKE_CROSSCOMPILING_EMULATOR ${SKIFF_ARM64_EMULATOR} -cpu max)
endif()

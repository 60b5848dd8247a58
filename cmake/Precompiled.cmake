# The standard library's headers, read once: a fifth of the time to compile a file. Every file still includes what it uses, and is compiled without them in the
# fuzz targets' folder and with -DSKIFF_PRECOMPILED=OFF. Files with flags of their own are, too (SKIP_PRECOMPILE_HEADERS): GCC takes a precompiled header with the same flags only.
option(SKIFF_PRECOMPILED "Precompile the standard library's headers (GCC)" ON)
if(NOT CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    set(SKIFF_PRECOMPILED OFF)
endif()
set(precompiled_headers <algorithm> <array> <atomic> <charconv> <chrono> <cmath> <cstdint> <cstring> <functional> <limits> <map> <memory> <mutex> <numeric> <optional> <set> <span>
    <string> <string_view> <thread> <tuple> <unordered_map> <utility> <variant> <vector>)

# skiff_precompile(target first [headers...]): one precompiled header for all targets of a kind, made for the first of them.
function(skiff_precompile target first)
    if(NOT SKIFF_PRECOMPILED)
        return()
    endif()
    if(target STREQUAL first)
        target_precompile_headers(${target} PRIVATE ${precompiled_headers} ${ARGN})
    else()
        target_precompile_headers(${target} REUSE_FROM ${first})
    endif()
    # GCC takes what is precompiled for the program's own and warns of it: false alarms about strings. Without precompiled headers it warns of such things everywhere else.
    target_compile_options(${target} PRIVATE -Wno-stringop-overflow -Wno-stringop-overread -Wno-array-bounds)
    if(CCACHE)
        target_compile_options(${target} PRIVATE -fpch-preprocess)
    endif()
endfunction()

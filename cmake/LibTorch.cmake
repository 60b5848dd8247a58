# LibTorch by its files: the target skiff_torch and LIBTORCH_VERSION, or neither. LibTorch's own package would look for protobuf, glog and a CUDA
# compiler too, which nothing here needs, and where one of them does not suit it, find_package(Torch) ends the configuration instead of saying no.
# Looks where that package is looked for: Torch_DIR, CMAKE_PREFIX_PATH (LibTorch's folder, or the share/cmake in it), then the system.
set(roots)
string(REPLACE ":" ";" environment_prefixes "$ENV{CMAKE_PREFIX_PATH}")
foreach(prefix ${Torch_DIR} ${CMAKE_PREFIX_PATH} $ENV{Torch_DIR} ${environment_prefixes})
    list(APPEND roots ${prefix} ${prefix}/../.. ${prefix}/../../..)
endforeach()
set(version_header torch/csrc/api/include/torch/version.h)
find_path(LIBTORCH_INCLUDE_DIR ${version_header} HINTS ${roots} PATH_SUFFIXES include)
if(NOT LIBTORCH_INCLUDE_DIR)
    return()
endif()
get_filename_component(root ${LIBTORCH_INCLUDE_DIR} DIRECTORY)
# Only from beside the headers: those of one version with the library of another would compile.
foreach(name torch torch_cpu c10 torch_cuda c10_cuda)
    find_library(LIBTORCH_${name} ${name} PATHS ${root} PATH_SUFFIXES lib lib/${CMAKE_LIBRARY_ARCHITECTURE} lib64 NO_DEFAULT_PATH)
    mark_as_advanced(LIBTORCH_${name})
endforeach()
if(NOT LIBTORCH_torch OR NOT LIBTORCH_torch_cpu OR NOT LIBTORCH_c10)
    return()
endif()
foreach(file torch/headeronly/version.h ${version_header})
    if(EXISTS ${LIBTORCH_INCLUDE_DIR}/${file})
        file(STRINGS ${LIBTORCH_INCLUDE_DIR}/${file} lines REGEX "define TORCH_VERSION_(MAJOR|MINOR|PATCH) ")
        string(REGEX REPLACE "[^0-9;]" "" LIBTORCH_VERSION "${lines}")
        string(REPLACE ";" "." LIBTORCH_VERSION "${LIBTORCH_VERSION}")
        break()
    endif()
endforeach()

add_library(skiff_torch INTERFACE)
target_include_directories(skiff_torch SYSTEM INTERFACE ${LIBTORCH_INCLUDE_DIR} ${LIBTORCH_INCLUDE_DIR}/torch/csrc/api/include)
# The operators register themselves when their library is loaded, so it must be even where no symbol of it is used.
target_link_libraries(skiff_torch INTERFACE -Wl,--push-state,--no-as-needed ${LIBTORCH_torch} ${LIBTORCH_torch_cpu} -Wl,--pop-state ${LIBTORCH_c10})
# pytorch.org's has headers of another fmt, which hide the system's; its code must then come from them too.
if(EXISTS ${LIBTORCH_INCLUDE_DIR}/fmt/format.h AND NOT LIBTORCH_INCLUDE_DIR STREQUAL /usr/include)
    target_compile_definitions(skiff_torch INTERFACE FMT_HEADER_ONLY)
endif()

# Debian's LibTorch takes whatever BLAS the system's alternatives name. OpenBLAS with threads of its own fights with LibTorch's OpenMP threads: f32
# training ran three times slower than with the OpenMP build, which is taken where it is installed. (An RPATH, which counts for LibTorch's own
# dependencies too; a RUNPATH would not.)
set(openblas_openmp /usr/lib/${CMAKE_LIBRARY_ARCHITECTURE}/openblas-openmp)
if(LIBTORCH_INCLUDE_DIR STREQUAL /usr/include AND EXISTS ${openblas_openmp}/libopenblas.so.0)
    target_link_options(skiff_torch INTERFACE -Wl,--disable-new-dtags -Wl,-rpath,${openblas_openmp})
endif()

# NCCL, where LibTorch is built for CUDA and the headers that its own headers include are there: beside it as Python packages, or CUDA's.
if(LIBTORCH_torch_cuda AND LIBTORCH_c10_cuda AND EXISTS ${LIBTORCH_INCLUDE_DIR}/torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp)
    file(GLOB beside LIST_DIRECTORIES true ${root}/../nvidia/*)
    set(cuda_roots ${beside} $ENV{CUDA_HOME} /usr/local/cuda)
    find_path(LIBTORCH_CUDA_INCLUDE_DIR cuda_runtime_api.h HINTS ${cuda_roots} PATH_SUFFIXES include)
    find_path(LIBTORCH_NCCL_INCLUDE_DIR nccl.h HINTS ${cuda_roots} PATH_SUFFIXES include)
    find_library(LIBTORCH_CUDART NAMES libcudart.so.13 libcudart.so.12 cudart NAMES_PER_DIR HINTS ${cuda_roots} PATH_SUFFIXES lib lib64)
    if(LIBTORCH_CUDA_INCLUDE_DIR AND LIBTORCH_NCCL_INCLUDE_DIR AND LIBTORCH_CUDART)
        add_library(skiff_torch_nccl INTERFACE)
        target_include_directories(skiff_torch_nccl SYSTEM INTERFACE ${LIBTORCH_NCCL_INCLUDE_DIR} ${LIBTORCH_CUDA_INCLUDE_DIR})
        target_compile_definitions(skiff_torch_nccl INTERFACE SKIFF_WITH_NCCL)
        target_link_libraries(skiff_torch_nccl INTERFACE ${LIBTORCH_torch_cuda} ${LIBTORCH_c10_cuda} ${LIBTORCH_CUDART})
        target_link_libraries(skiff_torch INTERFACE skiff_torch_nccl)
    endif()
endif()
mark_as_advanced(LIBTORCH_INCLUDE_DIR LIBTORCH_CUDA_INCLUDE_DIR LIBTORCH_NCCL_INCLUDE_DIR LIBTORCH_CUDART)

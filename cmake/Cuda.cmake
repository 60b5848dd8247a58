# The CUDA plug-in, libskiff_cuda.so: built where nvcc is found, with or without a GPU, and never needed by the program (docs/adr/0021-cuda-plug-in.md).
#   SKIFF_CUDA=AUTO|ON|OFF   AUTO: where there is an nvcc; ON: fail without one
#   SKIFF_CUDA_TARGETS       code for these processors; the first in the list also as PTX, for those that are none of them
# nvcc is called by hand, not as a CMake language: configuring needs no working CUDA compiler test, and each .cu may be compiled by what is there.
set(SKIFF_CUDA AUTO CACHE STRING "Build the CUDA plug-in: AUTO (where nvcc is found), ON, OFF")
set_property(CACHE SKIFF_CUDA PROPERTY STRINGS AUTO ON OFF)
set(SKIFF_CUDA_TARGETS "80;90a" CACHE STRING "Compute capabilities to compile for; a release has 80;86;89;90a;120")

set(SKIFF_NVCC)
if(NOT SKIFF_CUDA STREQUAL "OFF" AND NOT CMAKE_CROSSCOMPILING AND NOT SKIFF_STATIC AND NOT SKIFF_FUZZ AND NOT SKIFF_SANITIZE)
    find_program(SKIFF_NVCC_PROGRAM nvcc HINTS $ENV{CUDA_HOME}/bin $ENV{CUDA_PATH}/bin /usr/local/cuda/bin)
    if(SKIFF_NVCC_PROGRAM)
        get_filename_component(SKIFF_CUDA_ROOT ${SKIFF_NVCC_PROGRAM} DIRECTORY)
        get_filename_component(SKIFF_CUDA_ROOT ${SKIFF_CUDA_ROOT} DIRECTORY)
        find_library(SKIFF_CUDART_STATIC NAMES libcudart_static.a HINTS ${SKIFF_CUDA_ROOT}/lib64 ${SKIFF_CUDA_ROOT}/lib ${SKIFF_CUDA_ROOT}/targets/x86_64-linux/lib)
    endif()
    if(SKIFF_NVCC_PROGRAM AND SKIFF_CUDART_STATIC)
        set(SKIFF_NVCC ${SKIFF_NVCC_PROGRAM})
        message(STATUS "CUDA plug-in: ${SKIFF_NVCC}, for ${SKIFF_CUDA_TARGETS}")
    elseif(SKIFF_CUDA STREQUAL "ON")
        message(FATAL_ERROR "SKIFF_CUDA=ON, but nvcc or libcudart_static.a was not found; set CUDA_HOME, or SKIFF_NVCC_PROGRAM and SKIFF_CUDART_STATIC")
    else()
        message(STATUS "CUDA plug-in: no nvcc, so it is not built")
    endif()
endif()

set(SKIFF_CUDA_GENCODE)
foreach(target ${SKIFF_CUDA_TARGETS})
    if(SKIFF_CUDA_GENCODE)
        list(APPEND SKIFF_CUDA_GENCODE -gencode "arch=compute_${target},code=sm_${target}")
    else()
        list(APPEND SKIFF_CUDA_GENCODE -gencode "arch=compute_${target},code=[sm_${target},compute_${target}]")
    endif()
endforeach()

# skiff_cuda_objects(VARIABLE files...): compiles .cu files to objects, whose paths go to VARIABLE.
function(skiff_cuda_objects variable)
    set(objects)
    foreach(file ${ARGN})
        get_filename_component(file ${file} ABSOLUTE)
        file(RELATIVE_PATH name ${PROJECT_SOURCE_DIR} ${file})
        set(object ${CMAKE_BINARY_DIR}/cuda/${name}.o)
        get_filename_component(folder ${object} DIRECTORY)
        file(MAKE_DIRECTORY ${folder})
        add_custom_command(OUTPUT ${object} DEPENDS ${file} DEPFILE ${object}.d VERBATIM
            COMMAND ${SKIFF_NVCC} -std=c++20 -O3 -lineinfo -Xcompiler=-fPIC,-Wall,-fvisibility=hidden -I${PROJECT_SOURCE_DIR}/src
                    ${SKIFF_CUDA_GENCODE} -MD -MF ${object}.d -c ${file} -o ${object}
            COMMENT "Compiling ${name} with nvcc")
        list(APPEND objects ${object})
    endforeach()
    set(${variable} ${objects} PARENT_SCOPE)
endfunction()

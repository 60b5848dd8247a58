# The CUDA plug-in, libskiff_cuda.so: built where nvcc is found, with or without a GPU, and never needed by the program (docs/adr/0023-cuda-plug-in.md).
# src/kernels/cuda finds nvcc and compiles the kernels; src/backend links them into the plug-in.
set(SKIFF_CUDA AUTO CACHE STRING "Build the CUDA plug-in: AUTO (where nvcc is found), ON (fail without it), OFF")
set_property(CACHE SKIFF_CUDA PROPERTY STRINGS AUTO ON OFF)
set(SKIFF_CUDA_WANTED ON)
if(SKIFF_CUDA STREQUAL "OFF" OR CMAKE_CROSSCOMPILING OR SKIFF_STATIC OR SKIFF_FUZZ OR SKIFF_SANITIZE)
    set(SKIFF_CUDA_WANTED OFF)
endif()

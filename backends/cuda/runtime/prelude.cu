#if !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif
#include "gemma.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "device.cuh"
#include "sample.cuh"
#ifdef GEMMAC_CUBLASLT
#include "cublaslt.cuh"
#endif

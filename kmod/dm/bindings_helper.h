/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What bindgen reads for kmod/dm: the device-mapper headers, which the kernel's own Rust bindings
 * do not include, and the helpers for what is a macro or inline function in C.
 */
#include <linux/device-mapper.h>
#include <linux/dm-io.h>
#include <linux/dm-kcopyd.h>
#include <linux/mempool.h>

#include "helpers.h"

# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
# Kernels that we build: from a source tree of the user's (KERNEL_SRC), and the debug kernel from Debian's source
# package. Sourced by kernels.sh.

prepare_own_kernel() { die "KERNEL=own is not there yet"; }
prepare_debug_kernel() { die "KERNEL=debug is not there yet"; }

#!/usr/bin/env bash
# Builds the image mycelium/container, what container images boot with: Debian's cloud kernel
# and an initrd that holds the init (init/), one static Go program, and the drivers it loads.
# The disk is the container image's.
#
# Output: $VDC_CACHE_DIR/images/container/<version>/ with image.json, vmlinuz, initrd.
# The same inputs give the same bytes.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly here
# shellcheck source=../lib/common.sh
. "$here/../lib/common.sh"
# shellcheck source=../lib/debian.sh
. "$here/../lib/debian.sh"
# shellcheck source=../lib/kernel.sh
. "$here/../lib/kernel.sh"
# shellcheck source=../lib/go.sh
. "$here/../lib/go.sh"

readonly KIND=images/container

populate_root() {
    local system=$1 root=$2
    mkdir -p "$root"
    build_go "$here/init" "$root/init"
    add_modules "$system" "$here/modules.list" "$root"
}

write_description() {
    cat >"$1/image.json" <<-JSON
	{
	  "name": "mycelium/container:latest",
	  "kind": "kernel",
	  "arch": "x86_64",
	  "kernel": "vmlinuz",
	  "initrd": "initrd",
	  "cmdline": "$(kernel_options)",
	  "min_memory_bytes": 100663296
	}
	JSON
}

build() {
    local version=$1 work=$2 image=$2/image
    require_commands mmdebstrap go cpio depmod xz
    step "container image's kernel: building mycelium/container"
    mkdir -p "$image"
    run_quietly container-unpack "check that the Debian mirror carries $KERNEL_SUITE" unpack_kernel "$work"
    run_quietly container-initrd "fix the recipe in images/container" populate_root "$work/system" "$work/root"
    pack_root "$work/root" "$image/initrd"
    cp "$work"/system/boot/vmlinuz-* "$image/vmlinuz"
    write_description "$image"
    publish "$KIND" "$version" "$image"
    step "container image's kernel: mycelium/container in $VDC_CACHE_DIR/$KIND/$version"
}

mapfile -t sources < <(find "$here/init" -type f ! -name '*_test.go' ! -path '*/testdata/*' | LC_ALL=C sort)
ensure_artefact "$KIND" \
    "$(digest_of "$here"/{build.sh,modules.list} "${sources[@]}" "$here"/../lib/{debian,kernel,go}.sh)" \
    "container image's kernel" build

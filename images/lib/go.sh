# shellcheck shell=bash
# Go programs of this project: the standard library alone, nothing fetched, nothing of the
# machine left in what is built. Needs common.sh.

# in_go FOLDER ARGUMENTS...: go, in a module's folder. Its cache is where one may write.
in_go() {
    local folder=$1 cache=$VDC_CACHE_DIR/go
    shift
    mkdir -p "$cache" 2>/dev/null && [[ -w $cache ]] || cache=${TMPDIR:-/tmp}/vdc-go-$(id -u)
    (
        cd "$folder" || exit
        env CGO_ENABLED=0 GOARCH=amd64 GOCACHE="$cache" GOENV=off GOFLAGS= GOPROXY=off GOTOOLCHAIN=local \
            GOWORK=off go "$@"
    )
}

# build_go FOLDER PROGRAM: the same sources and compiler give the same bytes.
build_go() {
    in_go "$1" build -trimpath -buildvcs=false -ldflags '-s -w -buildid=' -o "$2" .
}

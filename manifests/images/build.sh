#!/usr/bin/env bash
# Builds every image of this repository as an OCI archive, without a container engine and without a registry.
#
#   build.sh [--bases] [--bin-dir DIR] [--agent FILE]
#
#   --bin-dir DIR   folder with asynctask-operator and asynctask-gateway: builds the operator image
#   --agent FILE    the static asynctask-agent: builds the agent image
#   --bases         builds the local base images only, and ends
#
# The examples (each folder of manifests/examples with a Containerfile) are always built. Result, below
# $ASYNCTASK_CACHE/images:
#
#   <name>-<hash>.tar   one OCI archive an image
#   images.env          <NAME>_IMAGE=<reference> and <NAME>_ARCHIVE=<path of the archive> for each image
#
# The tag is a hash of all that goes into the image: an unchanged image is not built again, and a changed binary gets a
# new reference, which is what makes `helm upgrade` roll the pods. An image that is left out (no --agent, say) keeps the
# archive and the lines of the last run. DEBIAN_MIRROR replaces Debian's public mirror.
set -euo pipefail
shopt -s nullglob

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
examples=$here/../examples
images=$(realpath -m "${ASYNCTASK_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/asynctask-operator}/images")
storage=$images/storage

say() { printf 'images %3ds  %s\n' "$SECONDS" "$*"; }
die() { printf 'build.sh: %s\n' "$*" >&2; exit 1; }

# The public base that a Containerfile names → what the stand-in made by mmdebstrap holds.
declare -A base_packages=(
  [base-debian]='ca-certificates'
  [base-python]='ca-certificates,libpython3-stdlib,python3-minimal'
)
base_for() { # Containerfile → name of the local base, nothing for `FROM scratch`
  case $(sed -n 's/^ARG BASE=//p' "$1") in
    */debian:12*) echo base-debian ;;
    */python:3*) echo base-python ;;
    '') ;;
    *) die "$1: no local stand-in for its BASE; use debian:12-slim or python:3-slim, or add one here" ;;
  esac
}

main() {
  local bin_dir='' agent='' bases_only=''
  while [[ $# -gt 0 ]]; do
    case $1 in
      --bases) bases_only=1 ;;
      --bin-dir) bin_dir=${2:?--bin-dir needs a folder}; shift ;;
      --agent) agent=${2:?--agent needs a file}; shift ;;
      --help | -h) sed -n '2,/^set/{/^set/!s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit ;;
      *) die "unknown argument: $1 (see --help)" ;;
    esac
    shift
  done

  [[ $EUID -eq 0 ]] || die 'run as root: buildah and mmdebstrap unpack root file systems'
  need buildah:buildah mmdebstrap:mmdebstrap strip:binutils jq:jq
  mkdir -p "$storage" "$images/env"
  exec 9>"$images/.lock"
  flock --nonblock 9 || { say 'another run is busy, waiting for it'; flock 9; }
  rm -rf "$images"/.work.* # of a run that was killed
  work=$(mktemp -d "$images/.work.XXXXXX") # global: the trap outlives this function
  trap 'rm -rf "$work"' EXIT

  build_bases
  [[ -z $bases_only ]] || return 0

  if [[ -n $bin_dir ]]; then
    image operator "$here/operator.Containerfile" '' "$bin_dir"/asynctask-{operator,gateway}
  fi
  if [[ -n $agent ]]; then
    [[ $(basename "$agent") == asynctask-agent ]] || die "$agent: the file must be called asynctask-agent"
    ! readelf --program-headers "$agent" | grep -q INTERP || die "$agent: not static, it would not start in a foreign image"
    image agent "$here/agent.Containerfile" '' "$agent"
  fi
  local file name
  for file in "$examples"/*/Containerfile; do
    name=$(basename "$(dirname "$file")")
    image "$name" "$file" "asynctask.dev/examples/$name:v1"
  done

  publish
}

need() { # command:package…
  local pair missing=()
  for pair; do command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}"); done
  [[ ${#missing[@]} -eq 0 ]] || die "missing programs; install them with: apt-get install ${missing[*]}"
}

hash() { b2sum | cut -c 1-12; }

build_with() { buildah --root "$storage" --runroot "$storage/run" "$@"; }

# --- bases --------------------------------------------------------------------------------------------------------

# $storage/<base>.id holds `<hash of the recipe> <image id>`. The id goes into the hash of each image built on the base.
build_bases() {
  local name recipe stale=()
  for name in "${!base_packages[@]}"; do
    recipe=$(declare -f debootstrap_to | cat - <(echo "${base_packages[$name]}") | hash)
    [[ $(cut -d ' ' -f 1 "$storage/$name.id" 2>/dev/null) == "$recipe" ]] || stale+=("$name:$recipe")
  done

  local pair pids=()
  for pair in "${stale[@]}"; do # download and unpack side by side
    name=${pair%%:*}
    say "$name: building from Debian packages (${base_packages[$name]})"
    mkdir "$work/$name"
    debootstrap_to "$work/$name/rootfs.tar" "${base_packages[$name]}" 2>"$work/$name/log" &
    pids+=($!)
  done
  for pair in "${stale[@]}"; do
    name=${pair%%:*}
    wait "${pids[0]}" || { cat "$work/$name/log" >&2; die "$name: mmdebstrap failed, see above"; }
    pids=("${pids[@]:1}")
    printf 'FROM scratch\nADD rootfs.tar /\nCMD ["/bin/sh"]\n' >"$work/$name/Containerfile"
    build_with bud --quiet --isolation chroot --tag "localhost/asynctask/$name:local" "$work/$name" >"$work/$name/id" \
      2>"$work/$name/log" || { cat "$work/$name/log" >&2; die "$name: buildah failed, see above"; }
    echo "${pair#*:} $(cat "$work/$name/id")" >"$storage/$name.id"
    say "$name: done"
  done
  [[ ${#stale[@]} -eq 0 ]] || build_with rmi --prune >/dev/null # the bases they replace
}

# The smallest Debian that still has a shell and dpkg; no apt, no documentation, no translations. The hook says that /usr is
# merged already; else the package usrmerge would bring all of Perl (50 MB) to do it.
debootstrap_to() { # tar packages
  mmdebstrap --variant=essential --include="$2" --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/info/*' --dpkgopt='path-exclude=/usr/share/lintian/*' \
    bookworm "$1" ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"}
}

# --- images -------------------------------------------------------------------------------------------------------

# The context is the given binaries, stripped; without any it is the folder of the Containerfile.
image() { # name containerfile second-reference [binary…]
  local name=$1 containerfile=$2 second=$3 base base_id='' tag
  shift 3
  base=$(base_for "$containerfile")
  [[ -z $base ]] || base_id=$(cut -d ' ' -f 2 "$storage/$base.id")
  tag=$({ echo "$base_id $second"; content "$containerfile" "$@"; } | hash)
  local reference=localhost/asynctask/$name:$tag archive=$images/$name-$tag.tar

  if [[ -e $archive ]]; then
    say "$name: unchanged, $reference"
  else
    build "$@" >"$work/$name.log" 2>&1 || { cat "$work/$name.log" >&2; die "$name: build failed, see above"; }
    say "$name: built $reference ($(du -h "$archive" | cut -f 1))"
  fi

  local variable=${name^^}
  variable=${variable//-/_}
  printf '%s_IMAGE=%s\n%s_ARCHIVE=%s\n' "$variable" "$reference" "$variable" "$archive" >"$images/env/$name"
}

# All that decides what is in the image: the Containerfile, and the binaries or the files beside it that it may copy.
content() { # containerfile [binary…]
  cat "$1"
  if [[ $# -gt 1 ]]; then
    cat "${@:2}"
  else
    tar --create --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner \
      --exclude=__pycache__ --exclude=./tests --exclude='*.md' --exclude='*.yaml' --directory "$(dirname "$1")" .
  fi
}

# A step of image(), whose variables it reads; the caller's `||` switches `set -e` off, hence the chain.
build() { # [binary…]
  local context=$work/$name layout=$work/$name.oci binary
  if [[ $# -gt 0 ]]; then
    mkdir "$context"
    for binary; do strip --strip-debug -o "$context/$(basename "$binary")" "$binary" || return; done
  else
    context=$(dirname "$containerfile")
  fi
  # Straight into an OCI layout: nothing stays in the storage, and layers are not compressed (which would be most of the
  # time, for files that never leave the machine).
  build_with bud --isolation chroot --layers=false --pull-never ${base:+--build-arg "BASE=localhost/asynctask/$base:local"} \
    --file "$containerfile" --tag "oci:$layout:$reference" "$context" \
    && add_name "$layout/index.json" "$second" \
    && tar --create --file "$layout.tar" --directory "$layout" . \
    && mv "$layout.tar" "$archive"
}

# A second name for the only image of a layout.
add_name() { # index.json reference
  [[ -n $2 ]] || return 0
  jq --arg name "$2" '.manifests += [.manifests[0] | .annotations["org.opencontainers.image.ref.name"] = $name]' "$1" \
    >"$1.new" && mv "$1.new" "$1"
}

# Writes images.env and removes what it does not name.
publish() {
  local file name
  for file in "$images"/env/*; do
    name=$(basename "$file")
    if [[ ! -e $(sed -n 's/.*_ARCHIVE=//p' "$file") ]] || [[ $name != operator && $name != agent && ! -e $examples/$name/Containerfile ]]; then
      rm "$file"
    fi
  done
  cat /dev/null "$images"/env/* >"$work/images.env"
  mv "$work/images.env" "$images/images.env"
  for file in "$images"/*.tar; do
    grep -qF "_ARCHIVE=$file" "$images/images.env" || { rm "$file"; say "removed $(basename "$file")"; }
  done
  say "$images/images.env"
}

main "$@"

#!/bin/sh
# Cleat: the README's example of tool lists and its configs, taken from the
# README, work as printed. SPDX-License-Identifier: Apache-2.0
# usage: readme_tools.sh ROOT WORK-FOLDER NODE NPM-FOLDER CLEAT
#
# npx would fetch the server that the config names: here it starts the same
# version, which tools/setup has installed.
set -eu
root=$1
work=$2
node=$3
npm=$4
cleat=$5
lines_max=30
. "$(dirname "$0")/host.sh"
rm -rf "$work"
mkdir -p "$work/host" "$work/run" "$work/bin"

# The block that follows the line `<!-- $1 -->`.
block() {
    awk -v mark="<!-- $1 -->" '
        $0 == mark { marked = 1; next }
        marked && !inside && /^```/ { inside = 1; next }
        inside && /^```$/ { exit }
        inside { print }' "$root/README.md"
}
block "embed tools" >"$work/host/main.c"
block "file tools.yaml" >"$work/run/tools.yaml"
block "file servers.json" >"$work/run/servers.json"
for file in host/main.c run/tools.yaml run/servers.json; do
    if [ ! -s "$work/$file" ]; then
        echo "README.md has no block for $file"
        exit 1
    fi
done
lines=$(wc -l <"$work/host/main.c")
if [ "$lines" -gt "$lines_max" ]; then
    echo "the example has $lines lines, $lines_max are allowed"
    exit 1
fi
cat >"$work/host/CMakeLists.txt" <<C
cmake_minimum_required(VERSION 3.22)
project(Host LANGUAGES C)
add_subdirectory("$root" cleat)
add_executable(example main.c)
target_compile_options(example PRIVATE -Wall -Wextra -Werror)
target_link_libraries(example PRIVATE cleat::cleat)
C
quietly cmake -S "$work/host" -B "$work/build" -DCMAKE_BUILD_TYPE=Release \
    -DCLEAT_MCP=ON
quietly cmake --build "$work/build"

server=$npm/node_modules/@modelcontextprotocol/server-everything
cat >"$work/bin/npx" <<C
#!/bin/sh
version=\$(sed -n 's/.*"version": "\(.*\)".*/\1/p' "$server/package.json")
if [ "\$1 \$2" != "-y @modelcontextprotocol/server-everything@\$version" ]; then
    echo "\$1 \$2: not what is installed" >&2
    exit 1
fi
shift 2
exec "$node" "$server/dist/index.js" "\$@"
C
chmod +x "$work/bin/npx"
PATH=$work/bin:$PATH
cd "$work/run"

# What the example and the command print must have the two tools selected.
expect() {
    if ! printf '%s\n' "$said" | grep -q -- "$1"; then
        printf '%s\n' "$said"
        echo "expected: $1"
        exit 1
    fi
}
said=$(timeout 60 "$work/build/example")
expect '^echo {'
expect '^get-sum {'
said=$(timeout 60 "$cleat" tools list --config tools.yaml)
expect '^2 tools of 1 server$'
said=$(timeout 60 "$cleat" tools call --config tools.yaml get-sum \
    --args '{"a": 2, "b": 3}')
expect '"content":.*5'
echo "$lines lines"

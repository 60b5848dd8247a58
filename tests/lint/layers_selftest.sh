#!/usr/bin/env bash
# check_layers finds each kind of violation that is planted, and accepts the same tree without it.
set -euo pipefail
check="$SKIFF_SOURCE_DIR/tools/check_layers"
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT

fresh() {
    rm -rf "$tree/src"
    mkdir -p "$tree"/src/{base,tensor,text,formats,plan,measure,runtime,compress,train,cli}
    printf '#pragma once\n#include <vector>\n' >"$tree/src/base/a.h"
    printf '#pragma once\n#include "base/a.h"\n' >"$tree/src/tensor/b.h"
    printf '#pragma once\n#include "tensor/b.h"\n' >"$tree/src/plan/c.h"
    printf '#include "plan/c.h"\n#include "base/a.h"\n' >"$tree/src/measure/d.cpp"
    printf '#include <nlohmann/json.hpp>\n' >"$tree/src/base/json.cpp"
    printf '#include <CLI/CLI.hpp>\n#include "base/a.h"\n' >"$tree/src/cli/main.cpp"
}

expect_clean() {
    bash "$check" "$tree" >"$tree/log" || { echo "FAILED: a tree in order was refused:"; cat "$tree/log"; exit 1; }
}

# plant FILE LINE WORDS: with LINE in FILE, check_layers must fail, name the file and say WORDS.
plant() {
    fresh
    printf '%s\n' "$2" >>"$tree/src/$1"
    if bash "$check" "$tree" >"$tree/log"; then echo "FAILED: not noticed: $2 in src/$1"; exit 1; fi
    grep -q "src/$1" "$tree/log" && grep -qF "$3" "$tree/log" || { echo "FAILED: wrong message for $2 in src/$1:"; cat "$tree/log"; exit 1; }
}

fresh
expect_clean
plant base/a.h '#include "tensor/b.h"' 'includes upward'
plant tensor/b.h '  #  include "plan/c.h"' 'includes upward'
plant formats/x.cpp '#include "text/t.h"' 'includes sideways'
plant plan/c.h '#include "measure/d.h"' 'includes sideways'
plant runtime/x.cpp '#include "compress/x.h"' 'includes sideways'
plant tensor/x.cpp '#include "b.h"' 'folder/file.h'
plant tensor/x.cpp '#include "../base/a.h"' 'folder/file.h'
plant tensor/x.cpp '#include "elsewhere/a.h"' 'not a folder with a level'
plant text/x.cpp '#include <nlohmann/json.hpp>' 'belongs only in'
plant runtime/x.cpp '#include <CLI/CLI.hpp>' 'belongs only in'
plant compress/x.cpp '#include <torch/torch.h>' 'belongs only in'
plant text/x.cpp '#include <regex>' 'belongs only in'
plant text/x.cpp '#include <gtest/gtest.h>' 'belongs only in'
plant tensor/x.h '#include <vector>' 'no #pragma once'
fresh
printf '#include <yaml-cpp/yaml.h>\n' | tee "$tree/src/compress/y.cpp" >"$tree/src/cli/y.cpp"
if bash "$check" "$tree" >"$tree/log"; then echo "FAILED: a library in two files was not noticed"; exit 1; fi
grep -q 'belongs in one file' "$tree/log"
fresh
expect_clean
echo "every planted violation was found"

#!/bin/sh
# Builds the engine's library and its runner: native/build.sh OUT [PYTHON], with the mlx of that Python, or of MLX_ROOT.
# CXX, CXXFLAGS as ever; on macOS clang's. OUT has gemma4, libgemma4.a afterwards; what has not changed is not built.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=${1:?usage: build.sh OUT [PYTHON]}
mkdir -p "$out"
mlx=${MLX_ROOT:-$("${2:-python3}" -c 'import mlx; print(list(mlx.__path__)[0])')}
cxx=${CXX:-c++}
flags="-std=c++20 ${CXXFLAGS:--O2} -Wall -Wextra -isystem $mlx/include"
pids=
for source in engine/program engine/bundle engine/engine runner/main ${EXTRA:-}; do
  object=$out/$(basename "$source").o
  newest=$(ls -t "$object" "$here/$source.cpp" "$here"/engine/*.h "$here"/engine/include/*.h 2>/dev/null | head -n 1)
  [ "$newest" = "$object" ] && continue
  $cxx $flags -c "$here/$source.cpp" -o "$object" &
  pids="$pids $!"
done
for pid in $pids; do wait "$pid"; done
rm -f "$out/libgemma4.a"
ar rcs "$out/libgemma4.a" "$out/program.o" "$out/bundle.o" "$out/engine.o"
link="$out/libgemma4.a -L$mlx/lib -lmlx -Wl,-rpath,$mlx/lib -pthread"
$cxx ${CXXFLAGS:--O2} "$out/main.o" $link -o "$out/gemma4"
for source in ${EXTRA:-}; do
  $cxx ${CXXFLAGS:--O2} "$out/$(basename "$source").o" $link -o "$out/$(basename "$source")"
done

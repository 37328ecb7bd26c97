#!/usr/bin/env bash
# tests.sh: cargo's arguments for the tests that run on a GPU, real or emulated.
tests=(conv layers mbconv transformer bf16 augment device gpu_loader gpu_training)
packages=(uniferum-kernels uniferum-fusion uniferum-data uniferum-train)
echo "${packages[@]/#/--package=}" "${tests[@]/#/--test=}" --features=uniferum-train/cuda

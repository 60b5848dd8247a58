#!/usr/bin/env bash
# The include levels hold.
exec bash "$SKIFF_SOURCE_DIR/tools/check_layers" "$SKIFF_SOURCE_DIR"

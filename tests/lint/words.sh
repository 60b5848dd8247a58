#!/usr/bin/env bash
# No path of a developer's machine, no key and no unfinished merge in the repository.
exec bash "$SKIFF_SOURCE_DIR/tools/check_words" "$SKIFF_SOURCE_DIR"

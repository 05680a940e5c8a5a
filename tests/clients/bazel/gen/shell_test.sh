#!/bin/bash
# Runfiles, a tree of them, and outputs that nothing declares.
set -e
grep -q hello gen/in.txt
grep -q hello gen/made/link
grep -q hello gen/made/sub/deep/file
gen/made/tool
echo undeclared > "$TEST_UNDECLARED_OUTPUTS_DIR/file"

#!/bin/sh
echo "pip is not available inside a sandbox: declare dependencies in requirements.txt; run 'ringfence extension reload'" >&2
exit 1

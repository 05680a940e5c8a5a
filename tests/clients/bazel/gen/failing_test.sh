#!/bin/bash
echo "this test fails"
exit 3

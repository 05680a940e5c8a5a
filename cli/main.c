/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <stdio.h>

int main(int argc, char **argv)
{
	printf("croft %s\n", CROFT_VERSION);
	return argc > 1 && argv[1][0] != '-' ? 2 : 0;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Linked with the zlib and libpng that the farm built: writes a picture, and a text through zlib. */
#include <png.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

enum { SIDE = 64 };

static int write_picture(const char *path)
{
	png_bytep rows[SIDE];
	FILE *file = fopen(path, "wb");
	png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
	png_infop info = png_create_info_struct(png);
	if (!file || !info || setjmp(png_jmpbuf(png)))
		return 1;
	for (int y = 0; y < SIDE; y++) {
		rows[y] = malloc(3 * SIDE);
		for (int x = 0; x < SIDE; x++)
			memcpy(rows[y] + 3 * x, (unsigned char[]){4 * x, 4 * y, x ^ y}, 3);
	}
	png_init_io(png, file);
	png_set_IHDR(png, info, SIDE, SIDE, 8, PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE,
		PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
	png_set_rows(png, info, rows);
	png_write_png(png, info, PNG_TRANSFORM_IDENTITY, NULL);
	return fclose(file);
}

int main(int argc, char **argv)
{
	const char *text = "lazily, lazily, lazily";
	unsigned char packed[200], back[200];
	uLongf packed_size = sizeof(packed), back_size = sizeof(back);
	if (argc != 2 || write_picture(argv[1]))
		return 1;
	if (compress(packed, &packed_size, (const Bytef *)text, strlen(text) + 1) != Z_OK ||
		uncompress(back, &back_size, packed, packed_size) != Z_OK || strcmp((char *)back, text))
		return 1;
	printf("zlib %s, libpng %s, %lu bytes back from %lu: %s\n", zlibVersion(), png_libpng_ver,
		(unsigned long)back_size, (unsigned long)packed_size, (char *)back);
	return 0;
}

#include <stdio.h>
#include <sum.h>

int main(void)
{
	printf("%d\n", sum(40, 2));
	return 0;
}

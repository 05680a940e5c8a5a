#include <cstdio>
#include "lib/sum.h"
#include "gen/text.h"
int main() { std::printf("%s %d\n", TEXT, sum(40, 2)); }

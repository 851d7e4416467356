/* What the example port needs of the C library. */
#ifndef TESTS_STDIO_H
#define TESTS_STDIO_H

int putchar(int character);

#endif

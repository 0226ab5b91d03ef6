/* What the test programs read: models and frames. */
#include <stdio.h>
#include <stdlib.h>

enum { ROOM = 1 << 20 };

/* A file whole into ROOM bytes. */
static size_t read_file(const char *path, void *to)
{
    FILE *in = fopen(path, "rb");
    size_t len = in ? fread(to, 1, ROOM, in) : 0;
    if (len == 0) {
        fprintf(stderr, "cannot read %s\n", path);
        exit(2);
    }
    fclose(in);
    return len;
}

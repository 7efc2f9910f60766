/* A library to load. */
int in_library(int x) { return x + 1; }

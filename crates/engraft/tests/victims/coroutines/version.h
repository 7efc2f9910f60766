#define VERSION 100

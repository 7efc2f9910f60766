// A program that uses libexpat for as long as it has input. Commands, one a line:
//     stop           stops a parser that was never started: status, error code and its text
//     parse TEXT     how many elements TEXT has, or the error
#include <expat.h>
#include <stdio.h>
#include <string.h>

static void XMLCALL count(void *elements, const XML_Char *name, const XML_Char **attributes)
{
    (void)name;
    (void)attributes;
    ++*(int *)elements;
}

static void stop(XML_Parser parser)
{
    enum XML_Status status = XML_StopParser(parser, XML_FALSE);
    enum XML_Error error = XML_GetErrorCode(parser);
    const char *text = XML_ErrorString(error);
    printf("status=%d error=%d %s\n", status, error, text ? text : "none");
}

static void parse(XML_Parser parser, const char *text)
{
    int elements = 0;
    XML_SetUserData(parser, &elements);
    XML_SetStartElementHandler(parser, count);
    if (XML_Parse(parser, text, (int)strlen(text), 1) == XML_STATUS_OK)
        printf("elements=%d\n", elements);
    else
        printf("error=%d\n", XML_GetErrorCode(parser));
}

int main(void)
{
    char line[1000];
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("ready");
    while (fgets(line, sizeof line, stdin)) {
        XML_Parser parser = XML_ParserCreate(NULL);
        if (strcmp(line, "stop\n") == 0)
            stop(parser);
        else if (strncmp(line, "parse ", 6) == 0)
            parse(parser, line + 6);
        else
            puts("what?");
        XML_ParserFree(parser);
    }
    return 0;
}

#include "edge_head.h"

const char *edge_error_text(edge_error error)
{
    switch (error) {
#define EDGE_ERROR_TEXT(name, text) \
    case EDGE_##name: \
        return text;
        EDGE_ERRORS(EDGE_ERROR_TEXT)
#undef EDGE_ERROR_TEXT
    }
    return "an error that is not known";
}

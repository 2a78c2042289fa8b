/* A borrowed reference to an item of a list: by the macro, or in a build for the limited API by its function. */
#ifndef KFIX_BORROWED_H
#define KFIX_BORROWED_H

#include <Python.h>

#ifdef Py_LIMITED_API
#define kfix_list_item PyList_GetItem
#else
#define kfix_list_item PyList_GET_ITEM
#endif

#endif

"""Leaves a word in the kernel's ring of the user's keys."""

import ctypes

from child import system_call


USER_KEYRING = -4


def attack(name, word):
    kind, name = ctypes.c_char_p(b"user"), ctypes.c_char_p(name.encode())
    payload = ctypes.c_char_p(word.encode())
    return system_call((248, 217), kind, name, payload, len(word), USER_KEYRING)

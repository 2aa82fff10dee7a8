"""Every bound of the Space in one place: what a visitor may ask for, and what the process may keep."""

from __future__ import annotations

from typing import Any

MEBIBYTE = 2**20
GIBIBYTE = 2**30

# What is uploaded. Images are measured by their headers, before a pixel is decoded.
MAX_UPLOAD = "50mb"
MAX_UPLOAD_BYTES = 50 * MEBIBYTE
UPLOAD_BYTES = 8 * GIBIBYTE  # of all visitors, in the time that files are kept
MAX_MEGAPIXELS = 60
MAX_ASPECT = 100  # longer side / shorter side
PREVIEW_SIDE = 2048  # pixels: what the browser gets of a larger photo
LARGE_MEGAPIXELS = 12  # above, photos are decoded one at a time

# What a prompt may be.
MAX_OBJECTS = 50
MAX_POINTS = 1000  # of all objects together
MAX_NAME = 80  # characters of an object's name
TOKENS_PER_PASS = 512  # prompts that are decoded at once: objects × (the most points of one + 2)

# Video.
MAX_VIDEO_SECONDS = 60
MAX_VIDEO_FRAMES = 900
MAX_VIDEO_PIXELS = 1920 * 1088  # of a frame
MAX_VIDEO_OBJECTS = 12
MAX_VIDEO_PROMPTS = 120  # each object on each frame with prompts for it: all are remembered to the video's end
MAX_OPEN_VIDEOS = 16  # of all visitors; the one longest unused is put away
STATE_BYTES = 256 * MEBIBYTE  # on disk, of the tracking states of one video
HELD_SESSIONS = 6  # sessions of open videos that stay in memory
TRACK_SECONDS = 120  # of a lent GPU (ZeroGPU), for one run of tracking

# What all visitors share: the least recently used goes first.
EMBEDDING_BYTES = 512 * MEBIBYTE
PIXEL_BYTES = 256 * MEBIBYTE  # decoded photos
MAX_MODELS = 3  # loaded at once, besides the embedded one
MAX_MODEL_BYTES = 500_000_000  # of the files of a model that a visitor names
MAX_MODEL_SIDE = 1024  # pixels of such a model's input
MIN_FREE_BYTES = 2 * GIBIBYTE  # of the disk, after a download

# Seconds of a GPU that is lent per call (ZeroGPU).
ENCODE_SECONDS = 20
PROMPT_SECONDS = 10

# Visitors.
MAX_WAITING = 60
WORK_SECONDS = 600  # of one run of everything, tracking, or a download; then others have their turn
MAX_BACKGROUND = 2  # runs at once, with those that were cancelled and have not ended yet
SESSION_SECONDS = 3600
STATE_SESSIONS = 100
CACHE_CHECK_SECONDS = 600  # how often files older than a session are deleted

# Requests other than uploads are read into memory.
MAX_JSON_BYTES = 2 * MEBIBYTE
MAX_MCP_BYTES = 16 * MEBIBYTE  # MCP clients send files as text
JSON_BYTES = 64 * MEBIBYTE  # of all requests at once
SHORT_BYTES = 64 * 1024  # of a request that is always taken, such as a click
SILENT_SECONDS = 30  # in which the next part of a request must come
MAX_JSON_DEPTH = 32

# The process stays under this, all of the above at their bounds.
MEMORY_GIB = 8

LAUNCH: dict[str, Any] = {
    "max_file_size": MAX_UPLOAD,
    "state_session_capacity": STATE_SESSIONS,
    "max_threads": 40,
    "show_error": False,  # gr.Error is shown all the same; others may name files of this machine
}

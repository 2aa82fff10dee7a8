"""The button "Copy as Python", and the script below it.

In a tab, inside `gr.Blocks`, with `visit` a `gr.State` and `canvas` a canvas (any components will do):

    python_panel(code, [visit, canvas])

where `code(visit, value)` returns the script, for example `python_code.segment_code(loaded, photo, objects)`, and
raises `gr.Error` where there is nothing yet.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import gradio as gr
from gradio.components import Component

# A comment, text, a keyword, a number: all that these scripts have.
TOKENS = re.compile(
    r"""(?P<comment>\#.*)|(?P<text>f?"(?:\\.|[^"\\])*"|f?'(?:\\.|[^'\\])*')"""
    r"""|\b(?P<keyword>import|for|in|def|return|with|as|None|True|False)\b|\b(?P<number>\d+(?:\.\d+)?)\b"""
)
# Mixed with the colour of the page's text, so that they can be read on light and on dark.
STYLE = """
.script { border: 1px solid var(--border-color-primary); border-radius: var(--block-radius);
    background: var(--background-fill-secondary); overflow: hidden; }
.script p { margin: 0; padding: 8px 14px; border-bottom: 1px solid var(--border-color-primary);
    color: var(--body-text-color-subdued); font-size: var(--text-sm); }
.script pre { margin: 0; padding: 12px 14px; max-height: 24em; overflow: auto; background: none;
    font: 12.5px/1.6 var(--font-mono); color: var(--body-text-color); white-space: pre; tab-size: 4; }
.script pre:focus-visible { outline: 2px solid var(--color-accent); outline-offset: -2px; }
.script code { font: inherit; background: none; padding: 0; color: inherit; }
.script .comment { color: var(--body-text-color-subdued); font-style: italic; }
.script .text { color: color-mix(in srgb, var(--body-text-color) 50%, #07894b); }
.script .keyword { color: color-mix(in srgb, var(--body-text-color) 50%, #6a3df5); font-weight: 600; }
.script .number { color: color-mix(in srgb, var(--body-text-color) 50%, #c2410c); }
"""
# The clipboard may be denied, and is missing where the page came over http: the script can still be read and copied.
COPY = """async (html) => {
    const page = new DOMParser().parseFromString(html, "text/html");
    const said = page.querySelector("p");
    try {
        await navigator.clipboard.writeText(page.querySelector("code").textContent);
        said.textContent = "Copied. Run it in the folder of your file.";
    } catch {
        said.textContent = "Copy it from here, and run it in the folder of your file.";
    }
    return page.body.innerHTML;
}"""


def python_panel(
    code: Callable[..., str], inputs: Sequence[Component], *, label: str = "Copy as Python", **look: Any
) -> gr.Button:
    """A button that copies a script and shows it below.

    Args:
        code: called with the values of `inputs` at each click; returns the script, or raises gr.Error.
        inputs: components.
        label: on the button.
        look: further arguments of `gr.Button`.

    Returns:
        The button.
    """
    button = gr.Button(label, **{"size": "sm", "min_width": 96, **look})
    shown = gr.HTML(visible=False, padding=False, css_template=STYLE)
    made = button.click(
        lambda *values: gr.HTML(script_html(code(*values)), visible=True),
        list(inputs),
        shown,
        show_progress="hidden",
        concurrency_id="code",
        concurrency_limit=4,
        api_visibility="private",
    )
    made.success(None, shown, shown, js=COPY, api_visibility="private")
    return button


def script_html(code: str) -> str:
    """A script as HTML, with a line above it that says what became of it."""
    return (
        '<div class="script"><p role="status"></p>'
        f'<pre tabindex="0" role="region" aria-label="Python script"><code>{coloured(code)}</code></pre></div>'
    )


def coloured(code: str) -> str:
    """A script as HTML whose comments, texts, keywords and numbers are marked; its text stays the same."""
    parts, end = [], 0
    for found in TOKENS.finditer(code):
        parts.append(escape(code[end : found.start()], quote=False))
        parts.append(f'<span class="{found.lastgroup}">{escape(found[0], quote=False)}</span>')
        end = found.end()
    return "".join([*parts, escape(code[end:], quote=False)])

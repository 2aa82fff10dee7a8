"""The look of the page: colours, system fonts and the style sheet. Nothing of it comes from another server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
from gradio.themes.utils import colors, fonts, sizes

# `system-ui` is a keyword only without quotes, and gradio quotes every name in a list.
SANS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'Noto Sans', Arial, sans-serif"
MONO = "ui-monospace, 'SF Mono', Menlo, Consolas, 'Liberation Mono', monospace"
ACCENT = colors.indigo
NEUTRAL = colors.slate


def theme() -> gr.themes.Base:
    """A quiet page of white cards on grey (dark: near-black) with one accent colour."""
    look = gr.themes.Base(
        primary_hue=ACCENT,
        secondary_hue=ACCENT,
        neutral_hue=NEUTRAL,
        radius_size=sizes.radius_lg,
        font=[fonts.Font("sans-serif")],
        font_mono=[fonts.Font("monospace")],
    )
    look.font, look.font_mono = SANS, MONO
    return look.set(**SETTINGS)


SETTINGS: dict[str, Any] = {
    "body_background_fill": "#f5f6f9",
    "body_background_fill_dark": "#0d1017",
    "body_text_color": "*neutral_800",
    "body_text_color_dark": "*neutral_100",
    "body_text_color_subdued": "*neutral_600",
    "body_text_color_subdued_dark": "*neutral_400",
    "background_fill_primary": "#ffffff",
    "background_fill_primary_dark": "#151a23",
    "background_fill_secondary": "*neutral_50",
    "background_fill_secondary_dark": "#10141c",
    "border_color_primary": "*neutral_200",
    "border_color_primary_dark": "#2a3140",
    "color_accent": "*primary_600",
    "color_accent_soft": "*primary_50",
    "color_accent_soft_dark": "#262b52",
    "link_text_color": "*primary_700",
    "link_text_color_dark": "*primary_300",
    "link_text_color_hover": "*primary_800",
    "link_text_color_hover_dark": "*primary_200",
    "link_text_color_active": "*primary_800",
    "link_text_color_active_dark": "*primary_200",
    "link_text_color_visited": "*primary_700",
    "link_text_color_visited_dark": "*primary_300",
    "block_background_fill": "#ffffff",
    "block_background_fill_dark": "#151a23",
    "block_border_width": "1px",
    "block_border_color": "*border_color_primary",
    "block_border_color_dark": "*border_color_primary",
    "block_radius": "12px",
    "block_shadow": "0 1px 2px rgb(15 23 42 / 0.04)",
    "block_shadow_dark": "none",
    "block_info_text_color": "*neutral_600",
    "block_info_text_color_dark": "*neutral_400",
    "block_label_background_fill": "*background_fill_secondary",
    "block_label_background_fill_dark": "*background_fill_secondary",
    "block_label_text_color": "*neutral_700",
    "block_label_text_color_dark": "*neutral_300",
    "block_title_text_color": "*neutral_700",
    "block_title_text_color_dark": "*neutral_300",
    "block_title_text_weight": "600",
    "block_title_text_size": "*text_sm",
    "input_background_fill": "#ffffff",
    "input_background_fill_dark": "#0f131b",
    "input_border_color": "*neutral_300",
    "input_border_color_dark": "#384152",
    "input_border_color_focus": "*primary_500",
    "input_border_color_focus_dark": "*primary_400",
    "input_border_width": "1px",
    "input_placeholder_color": "*neutral_500",
    "input_placeholder_color_dark": "*neutral_400",
    "input_shadow": "none",
    "input_shadow_focus": "0 0 0 3px rgb(99 102 241 / 0.2)",
    "slider_color": "*primary_600",
    "slider_color_dark": "*primary_400",
    "loader_color": "*primary_600",
    "loader_color_dark": "*primary_400",
    "button_border_width": "1px",
    "button_transition": "background-color 0.12s ease, border-color 0.12s ease",
    "button_large_text_weight": "600",
    "button_medium_text_weight": "600",
    "button_small_text_weight": "600",
    "button_large_radius": "10px",
    "button_medium_radius": "10px",
    "button_small_radius": "8px",
    "button_medium_padding": "9px 14px",
    "button_primary_background_fill": "*primary_600",
    "button_primary_background_fill_dark": "*primary_600",
    "button_primary_background_fill_hover": "*primary_700",
    "button_primary_background_fill_hover_dark": "*primary_700",
    "button_primary_border_color": "*primary_600",
    "button_primary_border_color_dark": "*primary_600",
    "button_primary_text_color": "#ffffff",
    "button_primary_text_color_dark": "#ffffff",
    "button_secondary_background_fill": "#ffffff",
    "button_secondary_background_fill_dark": "#1b212c",
    "button_secondary_background_fill_hover": "*neutral_100",
    "button_secondary_background_fill_hover_dark": "#252d3b",
    "button_secondary_border_color": "*neutral_300",
    "button_secondary_border_color_dark": "#384152",
    "button_secondary_text_color": "*neutral_800",
    "button_secondary_text_color_dark": "*neutral_100",
    "table_border_color": "*border_color_primary",
    "table_border_color_dark": "*border_color_primary",
    "table_even_background_fill": "#ffffff",
    "table_even_background_fill_dark": "#151a23",
    "table_odd_background_fill": "*neutral_50",
    "table_odd_background_fill_dark": "#181e28",
    "layout_gap": "16px",
}

LOOK: dict[str, Any] = {
    "theme": theme(),
    "css": (Path(__file__).parent / "page.css").read_text(encoding="utf-8"),
    "head": '<meta name="description" content="Click on a thing in a photo or a video and cut it out.">',
    "footer_links": ["api"],
}

"""Samples as a page: every kind of them, word for word."""

import re

from cvae.evaluation import samples

ALL = {
    "prior": ["a b", "c"],
    "reconstructions": [{"sentence": "a b", "reconstruction": "a"}],
    "interpolation": {
        "from": "a b",
        "to": "c",
        "places": [{"share": 0.0, "sentence": "a b"}, {"share": 1.0, "sentence": "c"}],
    },
    "neighbours": [{"sentence": "c", "nearest": [{"distance": 0.126, "sentence": "a b"}]}],
    "arithmetic": {
        "from": "negative",
        "to": "positive",
        "sentences": [{"sentence": "c", "places": [{"times": 1.5, "sentence": "d"}]}],
    },
}
PAGE = """## z from the prior

- a b
- c

## Sentences, and the decoder's reading of their z

- a b
  - a

## From “a b” to “c”

- 0.00  a b
- 1.00  c

## Nearest to “c”

- 0.13  a b

## z + t · (mean of positive − mean of negative)

- c
  - 1.50  d
"""


def test_every_kind_of_samples_has_its_part_of_the_page():
    assert samples.text(ALL) == samples.markdown(ALL).replace("`", "") == PAGE
    parts = [samples.text({kind: part}) for kind, part in ALL.items()]
    assert "\n".join(parts) == PAGE and samples.text({}) == ""


def test_in_markdown_all_words_are_code_spans():
    def words(part: object) -> list[str]:
        if isinstance(part, str):
            return [part]
        parts = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
        return [word for one in parts for word in words(one)]

    spans = re.findall("`(.*?)`", samples.markdown(ALL))
    assert sorted(spans) == sorted(words(ALL))


def test_a_run_s_samples_have_sixty_words_at_most_and_the_seed_0():
    """As the class says; small runs of these tests cut them earlier (tests/quick.py)."""
    assert (samples.Sampler.longest, samples.Sampler.seed) == (60, 0)

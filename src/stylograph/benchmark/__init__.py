"""The benchmark: how often a sentence did what it said and nothing else. `stylograph.bench` runs it."""

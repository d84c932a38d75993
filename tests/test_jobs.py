"""Jobs as data: what a picture carries is what was asked."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from stylograph.edit.config import DirectionConfig
from stylograph.errors import StylographError
from stylograph.jobs import JOBS, BlendJob, EditJob, InvertJob, SampleJob, SentenceJob, job_from_record, to_record


@pytest.mark.parametrize("kind", JOBS.values(), ids=JOBS)
def test_a_job_survives_json(kind):
    job = replace(kind(), seed=(7, 8), offline=True)
    if isinstance(job, SentenceJob):
        job = replace(job, target="a hat", neutral=("a", "b"), direction=DirectionConfig(count=3, lock=("64",)))
    if isinstance(job, EditJob):
        job = replace(job, edit=(Path("a.safetensors"),), strength=2.5)
    record = json.loads(json.dumps({"kind": kind.__name__, **to_record(job)}))
    assert job_from_record(record) == job


@pytest.mark.parametrize(
    "kind", [k for k in JOBS.values() if k not in (SampleJob, InvertJob, BlendJob)], ids=lambda k: k.__name__
)
def test_the_sentence_comes_first(kind):
    assert kind("a hat").target == "a hat"


def test_the_other_generator_comes_first():
    assert BlendJob("robots.safetensors").other == "robots.safetensors"


@pytest.mark.parametrize(
    "record", [{}, {"kind": "Dance"}, {"kind": "EditJob", "colour": 3}, {"kind": "EditJob", "direction": {"speed": 1}}]
)
def test_jobs_of_other_versions(record):
    with pytest.raises(StylographError, match="got"):
        job_from_record(record)

"""Dolma v1.7 and any other shards in its format, from https, S3, a mirror or a local folder."""

from collections.abc import Callable, Iterator

from dihal_core.config import CorpusSettings
from dihal_core.corpus.documents import Document
from dihal_core.corpus.lines import read_documents
from dihal_core.corpus.opening import file_problem, is_local, join, local_path, open_stream, reason_of, redacted
from dihal_core.corpus.plans import Shard
from dihal_core.corpus.reports import ReadReport
from dihal_core.corpus.sampling import Reader
from dihal_core.corpus.shards import BASE_URL
from dihal_core.errors import AssetError

TOLD_EVERY = 500
"""Documents between two calls of the progress callback."""


def shard_reader(corpus: CorpusSettings) -> Reader:
    """Return the reader of shards under `corpus.base_url` (Dolma's published address if there is none).

    A local file that cannot be read is damage and is reported; a remote one is an error, because another
    attempt, other credentials or another mirror may have it.
    """
    root, limit = corpus.base_url or BASE_URL, corpus.shard_prefix_megabytes << 20

    def read(shard: Shard, report: ReadReport, part: Callable[[float], None]) -> Iterator[Document]:
        url = join(root, shard.path)
        report.url = None if is_local(root) else redacted(url)
        if is_local(root) and (problem := file_problem(local_path(url))) is not None:
            report.damage(problem)
            return
        try:
            with open_stream(url) as handle:
                for number, document in enumerate(read_documents(handle, report, limit)):
                    if number % TOLD_EVERY == 0:
                        part(report.bytes_read / limit)
                    yield document
        except OSError as error:
            if not is_local(root) or isinstance(error, AssetError):
                raise
            report.damage(reason_of(error))
        if report.file_damage == "html_instead_of_a_shard" and not is_local(root):
            raise AssetError(
                f"{redacted(url)} answers with an HTML page instead of a shard (a login or error page?); set "
                "corpus.base_url to a mirror or a local folder that has the shards themselves"
            )

    return read

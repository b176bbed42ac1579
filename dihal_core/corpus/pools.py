"""Which text a study draws from, by `corpus.kind`, and what it is evaluated on, by `corpus.evaluation`."""

import dataclasses
from collections.abc import Callable, Mapping

from dihal_core.asset_list import PACKAGED_PAGES
from dihal_core.contract import StageContext
from dihal_core.corpus.builtin import read_builtin
from dihal_core.corpus.dolma import shard_reader
from dihal_core.corpus.dolma_plan import make_plan
from dihal_core.corpus.folder_plan import make_folder_plan
from dihal_core.corpus.hub import hub_plan
from dihal_core.corpus.offline import read_evaluation, read_offline
from dihal_core.corpus.plans import Plan
from dihal_core.corpus.sampling import Reader, sample
from dihal_core.corpus.sources import Pool
from dihal_core.corpus.tokenise import WindowEncoder
from dihal_core.corpus.wikitext import read_wikitext
from dihal_core.store import StageRecord

Assets = Mapping[str, StageRecord]
Tick = Callable[[], None]


def _builtin(context: StageContext, assets: Assets, encoder: WindowEncoder, tick: Tick) -> Pool:
    return read_builtin()


def _offline(context: StageContext, assets: Assets, encoder: WindowEncoder, tick: Tick) -> Pool:
    corpus = context.settings.corpus
    return read_offline(assets, corpus.num_eval_wiki > 0 and corpus.evaluation == "wiki_pages", tick)


def _sampled(context: StageContext, encoder: WindowEncoder, plan: Plan, read: Reader) -> Pool:
    settings = context.settings
    workers = settings.compute.corpus_workers
    return sample(plan, read, settings.corpus, settings.seed, context.store, encoder, context.progress, workers)


def _dolma(context: StageContext, assets: Assets, encoder: WindowEncoder, tick: Tick) -> Pool:
    corpus = context.settings.corpus
    return _sampled(context, encoder, make_plan(corpus, context.settings.seed), shard_reader(corpus))


def _folder(context: StageContext, assets: Assets, encoder: WindowEncoder, tick: Tick) -> Pool:
    corpus = context.settings.corpus
    return _sampled(context, encoder, make_folder_plan(corpus, context.settings.seed), shard_reader(corpus))


def _huggingface(context: StageContext, assets: Assets, encoder: WindowEncoder, tick: Tick) -> Pool:
    return _sampled(context, encoder, *hub_plan(context.settings.corpus, context.settings.seed))


POOLS: dict[str, Callable[[StageContext, Assets, WindowEncoder, Tick], Pool]] = {
    "builtin": _builtin,
    "offline": _offline,
    "dolma": _dolma,
    "folder": _folder,
    "huggingface": _huggingface,
}


def read_pool(context: StageContext, assets: Assets, encoder: WindowEncoder, tick: Tick) -> Pool:
    """Return the sources of the study with its evaluation set.

    Parameters
    ----------
    assets
        Records of unpacked text assets by name.
    encoder
        Gets windows that are made while shards are being read.
    tick
        Called now and then.

    Raises
    ------
    ConfigError, AssetError, NetworkError
        If text cannot be had as the settings ask for it.
    """
    corpus = context.settings.corpus
    pool = POOLS[corpus.kind](context, assets, encoder, tick)
    if not corpus.num_eval_wiki:
        return pool
    if corpus.evaluation == "wikitext103":
        evaluation, origin, facts = read_wikitext(corpus.evaluation_url, corpus.evaluation_part)
        return dataclasses.replace(
            pool,
            evaluation=evaluation,
            origins=(*pool.origins, origin),
            facts={**pool.facts, "evaluation": facts},
            published_evaluation=True,
        )
    if corpus.kind in PACKAGED_PAGES and pool.evaluation is None and corpus.kind != "offline":
        evaluation, sentence = read_evaluation(assets)
        missing = pool.missing if evaluation else (*pool.missing, sentence)
        return dataclasses.replace(pool, evaluation=evaluation, missing=missing)
    return pool

"""Figures for Prometheus, read from the mirror at each scrape; nothing is counted in between."""

from __future__ import annotations

from collections.abc import Iterator

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from hostagent.server.context import ServerContext
from hostagent.server.views import endophyte_view
from vdc.model.endophyte import Protection


class _Figures(Collector):
    """What this host runs and what it sees of its peers."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context

    def collect(self) -> Iterator[Metric]:
        """One pass over the mirror."""
        host = self._context.host
        mirror = host.mirror
        protected = GaugeMetricFamily("vdc_endophyte_in_lockstep", "1 while in lockstep", labels=["name"])
        epoch = GaugeMetricFamily("vdc_endophyte_epoch", "Epoch of the arbitration record", labels=["name"])
        pause = GaugeMetricFamily(
            "vdc_checkpoint_pause_seconds", "Pause of the guest per checkpoint", labels=["name", "quantile"]
        )
        for name, found in mirror.endophytes.items():
            status = endophyte_view(mirror, found.value).status
            if status.primary is None or status.primary.host != host.name:
                continue
            protected.add_metric([name], float(status.protection is Protection.LOCKSTEP))
            epoch.add_metric([name], status.epoch)
            pause.add_metric([name, "0.5"], status.checkpoints.pause_ms_p50 / 1000)
            pause.add_metric([name, "0.99"], status.checkpoints.pause_ms_p99 / 1000)
        silence = GaugeMetricFamily(
            "vdc_peer_silence_seconds", "Time since the last heartbeat", labels=["peer", "network"]
        )
        refused = CounterMetricFamily(
            "vdc_heartbeats_refused",
            "Datagrams from a peer's address that did not count",
            labels=["peer", "reason"],
        )
        for peer in mirror.hosts:
            if peer != host.name:
                for reason, count in host.heartbeats.refused(peer).items():
                    refused.add_metric([peer, reason], count)
                silence.add_metric([peer, "management"], host.heartbeats.silent_ms(peer, "management") / 1000)
                silence.add_metric(
                    [peer, "replication"], host.heartbeats.silent_ms(peer, "replication") / 1000
                )
        store = GaugeMetricFamily("vdc_store_silence_seconds", "Time since the store last answered")
        store.add_metric([], host.store_silent_ms() / 1000)
        yield from (protected, epoch, pause, silence, refused, store)


class MetricsHandler:
    """Serves the figures."""

    def __init__(self, context: ServerContext) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Figures(context))

    async def metrics(self, request: web.Request) -> web.Response:
        """See the route table."""
        return web.Response(body=generate_latest(self._registry), content_type="text/plain")

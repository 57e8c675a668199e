"""A scrape is as small as its scraper can take it."""

import gzip

from tests.harness.gateway import one_backend, running_gateway
from tests.harness.origins import one_origin


async def test_a_scrape_is_compressed_for_who_takes_it() -> None:
    async with one_origin() as origin, running_gateway(one_backend(origin)) as gateway:
        for accept, is_small in (
            ("gzip", True), ("deflate, gzip;q=0.5", True), ("gzip;q=0", False), ("br", False),
            ("", False),
        ):  # fmt: skip
            headers = [("Accept-Encoding", accept)]
            scrape = await gateway.client.get(f"{gateway.admin_url}/metrics", headers=headers)
            said = {name.lower(): value for name, value in scrape.headers}
            assert said["vary"] == "Accept, Accept-Encoding"
            assert said.get("content-encoding") == ("gzip" if is_small else None)
            body = gzip.decompress(scrape.body) if is_small else scrape.body
            assert body.startswith(b"# HELP headgate_")
            assert b"headgate_revision" in body

# docker build -t excursions . && docker run --rm excursions            (make repro)
#                                 docker run --rm excursions make test
# A smaller image, with the CPU build of torch: --build-arg PIP_EXTRA_INDEX_URL=<the index that pytorch.org names>
FROM python:3.11-slim-bookworm
# A compiler for torch.compile, a browser for the tests of the site.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends build-essential chromium chromium-driver git make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /excursions
COPY . .
ARG PIP_EXTRA_INDEX_URL=
RUN git config --system --add safe.directory /excursions && make .venv/.installed && rm -rf /root/.cache
CMD ["make", "repro"]

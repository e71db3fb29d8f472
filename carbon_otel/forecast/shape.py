"""The parameters of a transformer, counted from its shape.

Matrices, embeddings, biases and norms are counted; what is left out (relative position tables, pooling and task
heads, projectors) is below 1 % of the models in `tests/forecast/test_architecture.py`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LatentAttention:
    """Attention through latent vectors (MLA; DeepSeek-V2, arXiv 2405.04434)."""

    q_rank: int | None
    kv_rank: int
    nope_dim: int
    rope_dim: int
    v_dim: int


@dataclass(frozen=True, slots=True)
class Experts:
    """The experts of the sparse layers.

    Attributes:
        count: routed experts of a layer.
        per_token: of these, how many one token meets.
        ffn: inner width of an expert.
        shared_ffn: inner width of the experts that every token meets, together; 0 if there are none.
        layers: how many layers have experts; the others have a dense feed-forward network.
    """

    count: int
    per_token: int
    ffn: int
    shared_ffn: int
    layers: int


@dataclass(frozen=True, slots=True)
class Shape:
    """What a transformer's size depends on.

    Attributes:
        hidden: width of the residual stream.
        layers: of the decoder, or of the encoder if it is one alone.
        heads: attention heads.
        kv_heads: heads of keys and values.
        head_dim: width of one head.
        ffn: inner width of the dense feed-forward network.
        gated: whether that network has a gate: three matrices, not two.
        vocab: rows of the token embedding; 0 if it has none.
        tied: whether input and output share the embedding.
        positions: rows of learned position and type embeddings.
        bias: whether linear layers and norms have biases.
        qkv_bias: whether queries, keys and values alone have biases.
        encoder_layers: layers of an encoder beside the decoder, which then has cross-attention.
        experts: of a mixture of experts.
        latent: of latent attention.
        patch: values of an image patch, for a vision transformer.
        embedding: width of the token embedding, if it is not that of the residual stream; 0 if it is.
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    gated: bool
    vocab: int
    tied: bool
    positions: int = 0
    bias: bool = False
    qkv_bias: bool = False
    encoder_layers: int = 0
    experts: Experts | None = None
    latent: LatentAttention | None = None
    patch: int = 0
    embedding: int = 0

    def parameters(self) -> int:
        """All parameters."""
        return self._parameters(None if self.experts is None else self.experts.count)

    def active_parameters(self) -> int:
        """Parameters that one token meets; the embeddings are counted whole."""
        return self._parameters(None if self.experts is None else self.experts.per_token)

    def kv_values(self) -> int:
        """Values that are kept for one token of context, all layers together."""
        if self.latent is not None:
            return self.layers * (self.latent.kv_rank + self.latent.rope_dim)
        return self.layers * 2 * self.kv_heads * self.head_dim

    def _parameters(self, experts: int | None) -> int:
        dense_layers = self.layers
        total = self._embeddings()
        if self.experts is not None and experts is not None:
            dense_layers -= self.experts.layers
            router = self.hidden * self.experts.count
            shared = self._ffn(self.experts.shared_ffn) if self.experts.shared_ffn else 0
            total += self.experts.layers * (router + experts * self._ffn(self.experts.ffn) + shared)
        total += dense_layers * self._ffn(self.ffn)
        total += self.layers * (self._attention() + self._norms(2))
        total += self.encoder_layers * (self._attention() + self._ffn(self.ffn) + self._norms(2))
        if self.encoder_layers:
            total += self.layers * (self._attention() + self._norms(1)) + self._norms(1)
        return total + self._norms(1)

    def _embeddings(self) -> int:
        rows = self.vocab * (1 if self.tied else 2) + self.positions
        width = self.embedding or self.hidden
        projection = width * self.hidden if width != self.hidden else 0
        return rows * width + projection + self.patch * self.hidden

    def _attention(self) -> int:
        if self.latent is not None:
            return self._latent_attention(self.latent)
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        biases = queries + 2 * keys if self.bias or self.qkv_bias else 0
        return self.hidden * (2 * queries + 2 * keys) + biases + (self.hidden if self.bias else 0)

    def _latent_attention(self, latent: LatentAttention) -> int:
        queries = self.heads * (latent.nope_dim + latent.rope_dim)
        down = self.hidden * (latent.kv_rank + latent.rope_dim)
        up = latent.kv_rank * self.heads * (latent.nope_dim + latent.v_dim)
        out = self.heads * latent.v_dim * self.hidden
        rank = latent.q_rank
        return down + up + out + (self.hidden * queries if rank is None else rank * (self.hidden + queries))

    def _ffn(self, inner: int) -> int:
        matrices = 3 if self.gated else 2
        return matrices * self.hidden * inner + ((matrices - 1) * inner + self.hidden if self.bias else 0)

    def _norms(self, number: int) -> int:
        return number * self.hidden * (2 if self.bias else 1)

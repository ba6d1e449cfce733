import torch

from dspark.model.decoder import HuggingFaceDecoder
from dspark.model.paged_attention import Probe
from dspark.model.target_folder import use_paged_attention
from tests.model import tiny


def test_taps_are_the_outputs_of_their_layers_and_only_wanted_logits_are_made() -> None:
    model = tiny.plain("gemma3")
    use_paged_attention(model)
    decoder = HuggingFaceDecoder(model, (-1, 1), tiny.LAYERS)
    tokens = torch.tensor(tiny.prompt(5))
    with torch.inference_mode():
        # A probe attends to nothing, so a layer's output is what follows from its MLP alone.
        logits = decoder.run(tokens, torch.arange(5), torch.tensor([1, 4]), Probe())
        embedded = model.get_submodule("model.embed_tokens")(tokens)
    assert logits.shape == (2, tiny.VOCAB)
    assert torch.equal(decoder.tap(-1), embedded)
    assert decoder.tap(1).shape == embedded.shape
    assert not torch.equal(decoder.tap(1), embedded)

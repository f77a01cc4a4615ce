"""The example of the card of multilingual-e5-small."""

from sentence_transformers import SentenceTransformer

model = SentenceTransformer("intfloat/multilingual-e5-small")
input_texts = [
    "query: how much protein should a female eat",
    "query: 南瓜的家常做法",
    "passage: As a general guideline, the CDC's average requirement of protein for women ages 19 to 70 is 46 grams per day.",
    "passage: 1.清炒南瓜丝 原料:嫩南瓜半个 调料:葱、盐、白糖、鸡精",
]
embeddings = model.encode(input_texts, normalize_embeddings=True)

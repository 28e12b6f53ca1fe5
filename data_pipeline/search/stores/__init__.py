"""Vector stores: faiss in the process, Milvus on a server."""

"""A small grammar of German and English: words, noun phrases and clauses, said in both languages."""

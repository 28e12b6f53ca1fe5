"""Console script `bdam`; the only folder of the data pipeline that imports all the others."""

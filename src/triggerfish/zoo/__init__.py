"""Small PLMs to plant backdoors in, scan and demonstrate on: `pretrain.pretrain` makes one of any
family from plain text, `distil.distil` trims and distils a larger BERT, which is how the bundled
PLM was made. Settings of both are in `settings`."""

mkdir -p generated
sort words.txt | head -n 1 > generated/lib.txt

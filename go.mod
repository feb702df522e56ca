module foreman

go 1.26

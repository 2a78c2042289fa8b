class FieldReader:
    id_table: list[str]
